"""The first lines that an agent runs in a guest: choose the extension for this Python, then hand over.

Kept as text, because it is the `__main__` of another program. It must run on any Python 3, so that an old one is told
what is wrong.
"""

from __future__ import annotations

START = '''"""The agent of Lastwrite, one file."""
import os
import sys
import tempfile
import zipfile

PREFERRED = "/var/lib/lastwrite-agent"


def fail(why, remedy):
    sys.stderr.write("%s\\n%s\\n" % (why, remedy))
    sys.exit(7)


def unpack(archive, tag):
    prefix = "native/%s/" % tag
    names = [name for name in archive.namelist() if name.startswith(prefix)]
    if not names:
        fail("this agent was built without the parts for Python %d.%d" % sys.version_info[:2], "Deploy it again.")
    digest = archive.read(prefix + "DIGEST").decode()
    for parent in (PREFERRED, tempfile.gettempdir()):
        folder = os.path.join(parent, "lib-" + digest)
        # Only a folder of root alone is trusted: what lies in it will run as root.
        if os.path.isdir(folder) and os.stat(folder).st_uid == os.getuid() and not os.stat(folder).st_mode & 0o022:
            return folder
        if os.path.isdir(parent) and os.access(parent, os.W_OK):
            return fill(archive, prefix, names, parent, folder)
    fail("there is no folder for the agent's libraries", "Make %s or the temporary folder writable." % PREFERRED)


def fill(archive, prefix, names, parent, folder):
    work = tempfile.mkdtemp(prefix="lib-", dir=parent)
    for name in names:
        path = os.path.join(work, name[len(prefix):])
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(archive.read(name))
    os.chmod(work, 0o755)
    try:
        os.rename(work, folder)
    except OSError:
        return work
    return folder


def main():
    if sys.version_info < (3, 8):
        fail("Python %d.%d is too old for the agent" % sys.version_info[:2], "Install Python 3.8 or later.")
    with zipfile.ZipFile(sys.path[0]) as archive:
        sys.path.insert(1, unpack(archive, "cp%d%d" % sys.version_info[:2]))
    # With no extension module beside it, msgpack takes its pure Python form.
    from guesttap.agent.main import run

    return run()


if __name__ == "__main__":
    sys.exit(main())
'''
