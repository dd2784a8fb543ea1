"""A vCenter that runs on this host: govmomi's simulator, built by ``make vcenter``."""

from __future__ import annotations

import contextlib
import ssl
import subprocess
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trustme
from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import vim

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
BUILT = ROOT / "build" / "vcsim"
USER, PASSWORD = "sandboxes@example", "correct horse"


@dataclass(frozen=True)
class Authority:
    """Who signed the simulator's certificate: files."""

    ca: Path
    cert: Path
    key: Path


class Simulator:
    """A vCenter that runs."""

    def __init__(self, kind: str, authority: Authority, *options: str) -> None:
        self.kind = kind
        self.authority = authority
        self._options = options
        self._process: subprocess.Popen[str] | None = None
        self.port = 0
        self.start()

    def start(self) -> None:
        """Start it; after `kill` it is another one at the same address."""
        command = [str(BUILT / self.kind), "-username", USER, "-password", PASSWORD]
        command += ["-tlscert", str(self.authority.cert), "-tlskey", str(self.authority.key)]
        command += ["-l", f"127.0.0.1:{self.port}", *self._options]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline().rpartition(":")[2])

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def ask(self, path: str) -> None:
        """Have the extended one do as tests want, see tests/vcsim/extended.go."""
        context = ssl.create_default_context(cafile=str(self.authority.ca))
        request = urllib.request.Request(f"https://127.0.0.1:{self.port}/-/{path}", method="POST")
        with urllib.request.urlopen(request, context=context) as answer:
            assert answer.status == 200

    @contextlib.contextmanager
    def look(self) -> Iterator[Any]:
        """What the vCenter has, for a user of his own."""
        context = ssl.create_default_context(cafile=str(self.authority.ca))
        instance = SmartConnect(host="127.0.0.1", port=self.port, user=USER, pwd=PASSWORD, sslContext=context)
        try:
            yield instance.RetrieveContent()
        finally:
            Disconnect(instance)
            instance._stub.DropConnections()

    def folder(self, content: Any, name: str) -> Any:
        """The folder of a test, made if there is none."""
        parent = content.rootFolder.childEntity[0].vmFolder
        for child in parent.childEntity:
            if isinstance(child, vim.Folder) and child.name == name:
                return child
        return parent.CreateFolder(name)

    def names(self, folder: str) -> list[str]:
        """The names of all virtual machines in a folder."""
        with self.look() as content:
            return [vm.name for vm in self.folder(content, folder).childEntity]

    def make(self, folder: str, name: str, values: dict[str, str], *, snapshot: str = "") -> None:
        """Make a virtual machine, as somebody else would."""
        with self.look() as content:
            host = content.rootFolder.childEntity[0].hostFolder.childEntity[0]
            spec = vim.vm.ConfigSpec(
                name=name,
                memoryMB=1024,
                numCPUs=1,
                guestId="otherGuest64",
                files=vim.vm.FileInfo(vmPathName=f"[{host.datastore[0].name}]"),
                extraConfig=[vim.option.OptionValue(key=k, value=v) for k, v in values.items()],
            )
            task = self.folder(content, folder).CreateVM_Task(spec, host.resourcePool)
            if snapshot:
                task.info.result.CreateSnapshot_Task(snapshot, "", False, False)

    def tell(self, folder: str, name: str, address: str) -> None:
        """Tell the address of the machine that has something in its name, as VMware Tools do."""
        values = {"SET.guest.ipAddress": address, "SET.guest.toolsRunningStatus": "guestToolsRunning"}
        options = [vim.option.OptionValue(key=key, value=value) for key, value in values.items()]
        with self.look() as content:
            [vm] = [each for each in self.folder(content, folder).childEntity if name in each.name]
            vm.ReconfigVM_Task(vim.vm.ConfigSpec(extraConfig=options))


def authority_in(folder: Path) -> Authority:
    """Make a certificate for this host, and who signed it."""
    found = Authority(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    ca = trustme.CA()
    cert = ca.issue_cert("127.0.0.1")
    ca.cert_pem.write_to_path(found.ca)
    cert.private_key_pem.write_to_path(found.key)
    for part in cert.cert_chain_pems:
        part.write_to_path(found.cert, append=True)
    return found
