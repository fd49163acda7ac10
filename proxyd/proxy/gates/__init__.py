"""The gates a matched request passes before it goes upstream, one file each, each with one reason to refuse."""
