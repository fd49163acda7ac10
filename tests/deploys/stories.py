"""What is done to a running service. Each story begins with a version that serves and ends with the next one."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable

import psutil

from tests.deploys.load import Load
from tests.deploys.programs import Service, kill_groups
from tests.support.waiting import wait_for

#: (service) does it.
Story = Callable[[Service], None]


def restart(service: Service) -> None:
    """TERM to `proxyctl run`, and another start: what `systemctl restart` does."""
    service.restart(service.instance)


def kill(service: Service) -> None:
    """The program and what it started are killed by -9; `proxyctl run` starts it again."""
    kill_groups(service.runner().children())


def kill_all(service: Service) -> None:
    """proxyctl is killed by -9, too; another one is started."""
    runner = service.runner()
    programs = runner.children()
    runner.kill()
    kill_groups(programs)
    wait_for(lambda: not runner.is_running(), 10, "its end")
    service.restart(service.instance)


def overlap(service: Service) -> None:
    """HUP: the new version is up before the old one goes."""
    service.runner().send_signal(signal.SIGHUP)


def deploy(service: Service) -> None:
    """`proxyctl deploy` around a command that restarts the service."""
    _proxyctl(service, "deploy", service.kind.name, "--", "sh", str(service.script(service.instance)))


def rollout(service: Service) -> None:
    """Another instance gets the clients step by step, then the old one is stopped."""
    old, new = service.instance, "b" if service.instance == "a" else "a"
    service.restart(new, "--option", "rollout=wait")
    wait_for(lambda: service.system.sql("SELECT 1 FROM routes WHERE service_name = ? AND instance_name = ? AND enabled",
                                        service.kind.name, new), 60, "the new one")
    _proxyctl(service, "rollout", service.kind.name, "--to", new, "--steps", "25,100", "--every", "1s", "--max-slower", "1000")
    runner = service.runner(old)
    runner.terminate()
    wait_for(lambda: not runner.is_running(), 60, "the end of the old one")
    service.instance = new


STORIES: dict[str, Story] = {one.__name__: one for one in (restart, kill, kill_all, overlap, deploy, rollout)}
#: Those in which a program is killed amid requests: what it has read may be lost, so that clients send none that must not come twice, and
#: those of gRPC send again what was UNAVAILABLE.
KILLS = ("kill", "kill_all")


def _proxyctl(service: Service, *words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "proxyd.ctl.main", *words], env=service.system.environment, capture_output=True, text=True,
                          check=False, timeout=120)
    assert done.returncode == 0, f"{words[0]}: {done.stdout}{done.stderr}"


def tell(name: str, service: Service) -> tuple[int, int, list[str]]:
    """Run a story under load. Returns the requests, the calls that clients have sent again, and what failed."""
    programs = service.runner().children()
    load = Load(service.kind.name, service.system.proxy_port, service.host, service.directory, name not in KILLS)
    try:
        wait_for(lambda: load.requests > 0, 30, "the load")
        service.next_version()
        STORIES[name](service)
        service.await_version()
        wait_for(lambda: not any(program.is_running() for program in programs), 60, "the end of what ran before")
    except (AssertionError, OSError, subprocess.SubprocessError, psutil.Error) as error:
        load.failures.append(repr(error))
    finally:
        load.stop()
    if load.again and name not in KILLS:
        load.failures.append(f"{load.again} calls were sent again")
    return load.requests, load.again, load.failures
