"""The lock on private keys in the database: a key in a file encrypts them, so that a copy of the database gives none away."""

from __future__ import annotations

import os

#: For the file: nobody but its owner reads it.
_MODE = 0o600


class KeyboxError(Exception):
    """The key file can't be used, or is not the one that the rows were encrypted with; the message says what to do."""


class Keybox:
    """Encrypts and decrypts with the key of one file."""

    def __init__(self, path: str) -> None:
        """Read the file. Raises KeyboxError."""
        from cryptography.fernet import Fernet

        self.path = path
        try:
            with open(path, "rb") as file:
                self._fernet = Fernet(file.read(4096).strip())
        except OSError as error:
            raise KeyboxError(f"can't read the key file {path}: {error.strerror}") from None
        except ValueError:
            raise KeyboxError(f"{path} holds no key of certificates; bring back the right file, it is not replaced") from None

    def lock(self, secret: str) -> str:
        """The text, encrypted."""
        return self._fernet.encrypt(secret.encode()).decode("ascii")

    def unlock(self, locked: str) -> str:
        """The text that `lock` was given. Raises KeyboxError."""
        from cryptography.fernet import InvalidToken

        try:
            return self._fernet.decrypt(locked.encode()).decode()
        except InvalidToken:
            raise KeyboxError(f"the keys in the database were encrypted with another key file than {self.path}: bring that one "
                              "back") from None


def make(path: str) -> None:
    """Make a key file where there is none, readable by its owner alone. Raises KeyboxError."""
    from cryptography.fernet import Fernet

    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), mode=0o750, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        try:
            os.fchmod(fd, _MODE)
            os.write(fd, Fernet.generate_key() + b"\n")
            os.fsync(fd)
        finally:
            os.close(fd)
    except FileExistsError:
        return
    except OSError as error:
        raise KeyboxError(f"can't make the key file {path}: {error.strerror}") from None
