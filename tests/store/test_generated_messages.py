"""The committed protobuf modules are what protoc generates from promscale/*.proto."""

import subprocess
import sys

import pytest

from local import CHECKOUT

PROTO_FILES = sorted(path.relative_to(CHECKOUT) for path in (CHECKOUT / "promscale").glob("*.proto"))


@pytest.mark.parametrize("proto_file", PROTO_FILES, ids=str)
def test_generated_modules_are_fresh(proto_file, tmp_path):
    pytest.importorskip("grpc_tools", reason="protoc is not installed: grpcio-tools of requirements/test.txt")
    command = [sys.executable, "-m", "grpc_tools.protoc", "--proto_path=."]
    outputs = [f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
    subprocess.run([*command, *outputs, proto_file], cwd=CHECKOUT, check=True)
    for suffix in (".py", ".pyi"):
        module = proto_file.with_name(f"{proto_file.stem}_pb2{suffix}")
        assert (CHECKOUT / module).read_text() == (tmp_path / module).read_text(), (
            f"{module} is stale: {' '.join(command[1:])} --python_out=. --pyi_out=. promscale/*.proto"
        )
