# SPDX-License-Identifier: Apache-2.0
import pytest

from tracer.reconcile.cgroups import CgroupPaths, container_name

ID = "0123456789ab" + "c" * 52
POD = "11111111_2222_3333_4444_555555555555"
POD_SHOWN = POD.replace("_", "-")

PATHS = [
    (f"/system.slice/docker-{ID}.scope", "docker/0123456789ab"),
    (f"/docker/{ID}", "docker/0123456789ab"),
    (f"/docker/{ID}/init.scope", "docker/0123456789ab"),
    (f"/machine.slice/libpod-{ID}.scope/container", "podman/0123456789ab"),
    (
        f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{POD}.slice/cri-containerd-{ID}.scope",
        f"containerd/0123456789ab pod {POD_SHOWN}",
    ),
    (f"/kubepods.slice/kubepods-pod{POD}.slice/crio-{ID}.scope", f"cri-o/0123456789ab pod {POD_SHOWN}"),
    (f"/kubepods/besteffort/pod{POD_SHOWN}/{ID}", f"kubepods/0123456789ab pod {POD_SHOWN}"),
    ("/system.slice/nginx.service", "systemd/nginx.service"),
    ("/user.slice/user-0.slice/user@0.service/app.slice/foo.service", "systemd/foo.service"),
    ("/user.slice/user-1000.slice/session-3.scope", "systemd/session-3.scope"),
    ("/", None),
    ("/system.slice", None),
    (f"/somewhere/{ID}", None),
]


@pytest.mark.parametrize(("path", "name"), PATHS)
def test_a_path_tells_the_container_or_the_service(path, name):
    assert name == container_name(path)


@pytest.fixture
def hierarchy(tmp_path):
    (tmp_path / "cgroup.procs").touch()
    (tmp_path / "system.slice" / "a.service").mkdir(parents=True)
    return tmp_path


def test_an_id_is_the_inode_of_its_folder(hierarchy):
    inner = hierarchy / "system.slice" / "a.service"

    assert "/system.slice/a.service" == CgroupPaths((hierarchy,)).path(inner.stat().st_ino)
    assert "/" == CgroupPaths((hierarchy,)).path(hierarchy.stat().st_ino)


def test_a_cgroup_that_was_made_later_is_found_but_not_looked_for_at_every_call(hierarchy):
    now = [0.0]
    paths = CgroupPaths((hierarchy,), clock=lambda: now[0])
    assert paths.path(1) is None
    late = hierarchy / "late.service"
    late.mkdir()

    assert paths.path(late.stat().st_ino) is None
    now[0] = 2.0
    assert "/late.service" == paths.path(late.stat().st_ino)


def test_without_a_v2_hierarchy_there_are_no_paths(tmp_path):
    assert CgroupPaths((tmp_path,)).path(77) is None


def test_an_id_of_0_is_unknown(hierarchy):
    assert CgroupPaths((hierarchy,)).path(0) is None
