"""`python -m proxyd` is the `proxyd` command."""

import sys

from proxyd.cli.main import main

sys.exit(main())
