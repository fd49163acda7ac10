"""The benchmark: proxyd beside other proxies, one core each, in one run."""
