"""gunicorn -c gunicorn.conf.py proxyd.wsgi:app

Everything follows from conf/proxyd.ini and the PROXYD_* variables (docs/configuration.md); what is set below the
last line beats it.
"""

from proxyd.server.gunicorn_conf import configuration

globals().update(configuration())
