"""The Helm chart of agents: rendered by Go's templates and Sprig, as Helm does it, and run as a container would.

There is no Kubernetes here. What a pod's volumes and security context mean for a process is made with a mount
namespace, the modes and owners that the kubelet gives, and the capabilities that the container is left with.
"""

import json
import os
import shutil
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import psutil
import pytest
import yaml
from tests.apis import Api, until

CHART = Path(__file__).parents[3] / "deploy/helm/isthmus-agent"
#: Where Debian's packages of Go libraries are.
GOPATH = "/usr/share/gocode"
VALUES = {
    "url": "https://cl4k2nq4tz7.external.example.org/dq7xk2ma",
    "image": "registry.example.org/isthmus-agent:0.1.0",
    "token": {"secret": "oslo-token"},
}
CONTROL, TASKS = 61184, 61185

Render = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def render(tmp_path_factory: pytest.TempPathFactory) -> Render:
    """A function that gives the chart's objects by kind, and its notes, for values over the chart's own."""
    if shutil.which("go") is None or not Path(GOPATH, "src/github.com/Masterminds/sprig").is_dir():
        pytest.skip("go or sprig is missing: apt-get install golang-go golang-github-masterminds-sprig-dev")
    work = tmp_path_factory.mktemp("render")
    program = work / "render"
    environment = {
        "PATH": os.environ["PATH"],
        "GO111MODULE": "off",
        "GOPATH": GOPATH,
        "GOCACHE": str(work / "cache"),
        "GOFLAGS": "-p=2",
    }
    subprocess.run(
        ["go", "build", "-o", program, Path(__file__).with_name("render.go")], env=environment, check=True, timeout=300
    )

    def render(**values: Any) -> dict[str, Any]:
        whole = merged(yaml.safe_load((CHART / "values.yaml").read_text()), values)
        jsonschema.validate(whole, json.loads((CHART / "values.schema.json").read_text()))
        data = {"Values": whole, "Release": {"Name": "oslo", "Namespace": "agents"}}
        done = subprocess.run(
            [program, CHART], input=json.dumps(data), capture_output=True, text=True, check=False, timeout=30
        )
        if done.returncode != 0:
            raise ValueError(done.stderr)
        files = json.loads(done.stdout)
        objects = [yaml.safe_load(text) for name, text in files.items() if name.endswith(".yaml")]
        return {"notes": files["NOTES.txt"], **{one["kind"]: one for one in objects}}

    return render


def merged(below: Any, above: Any) -> Any:
    """As Helm merges values: maps by key, everything else as a whole."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return {**below, **{name: merged(below.get(name), value) for name, value in above.items()}}


def container_of(rendered: dict[str, Any]) -> dict[str, Any]:
    [container] = rendered["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    return dict(container)


def environment_of(container: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one.get("value", "POD") for one in container["env"]}


def test_the_least_values_make_a_pod_that_cannot_do_more_than_it_must(render: Render) -> None:
    rendered = render(**VALUES)
    pod = rendered["StatefulSet"]["spec"]["template"]["spec"]
    container = container_of(rendered)
    assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["terminationGracePeriodSeconds"] > int(environment_of(container)["ISTHMUS_AGENT_DRAIN_SECONDS"])
    mounted = {one["name"] for one in container["volumeMounts"]}
    assert mounted == {one["name"] for one in pod["volumes"]}
    selector = rendered["StatefulSet"]["spec"]["selector"]["matchLabels"]
    assert selector.items() <= rendered["StatefulSet"]["spec"]["template"]["metadata"]["labels"].items()
    assert "isthmus agents list --find oslo" in rendered["notes"]


def test_all_values_reach_where_they_belong(render: Render) -> None:
    given = {
        **VALUES,
        "replicas": 3,
        "queues": ["gpu", "a b"],
        "slots": 1000,
        "labels": {"site": 'o"slo', "rack": "r1"},
        "authority": {"configMap": "company"},
        "taskEnvironment": {"AIRFLOW_CONN_LAKE": "s3://x?y=%7B", "B": "two words"},
        "resources": {"limits": {"memory": "2Gi"}},
        "nodeSelector": {"pool": "agents"},
        "tolerations": [{"key": "x", "operator": "Exists"}],
        "extraVolumes": [{"name": "dags", "persistentVolumeClaim": {"claimName": "dags"}}],
        "extraVolumeMounts": [{"name": "dags", "mountPath": "/srv/dags"}],
        "podAnnotations": {"a": "b"},
        "podLabels": {"c": "d"},
        "imagePullSecrets": [{"name": "pull"}],
    }
    rendered = render(**given)
    pod = rendered["StatefulSet"]["spec"]["template"]["spec"]
    environment = environment_of(container_of(rendered))
    assert rendered["StatefulSet"]["spec"]["replicas"] == 3
    assert environment["ISTHMUS_AGENT_QUEUES"] == "gpu,a b"
    assert environment["ISTHMUS_AGENT_SLOTS"] == "1000"
    assert environment["ISTHMUS_AGENT_LABELS"] == 'rack=r1,site=o"slo'
    assert environment["ISTHMUS_AGENT_CA_FILE"] == "/etc/isthmus/authority/ca.crt"
    lines = rendered["ConfigMap"]["data"]["task-environment"].splitlines()
    assert lines[-2:] == ["AIRFLOW_CONN_LAKE=s3://x?y=%7B", "B=two words"]
    assert container_of(rendered)["resources"] == given["resources"]
    assert (pod["nodeSelector"], pod["tolerations"]) == (given["nodeSelector"], given["tolerations"])
    assert {"name": "dags", "mountPath": "/srv/dags"} in container_of(rendered)["volumeMounts"]
    assert pod["imagePullSecrets"] == [{"name": "pull"}]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"url": "https://example.org"}, "url"),
        ({"image": ""}, "image"),
        ({"token": {"secret": ""}}, "secret"),
        ({"queue": ["default"]}, "queue"),
        ({"slots": 0}, "slots"),
        ({"authority": {"secret": "a", "configMap": "b"}}, "not both"),
        ({"users": {"control": 7, "tasks": 7}}, "must not run as the user that holds the token"),
        ({"taskEnvironment": {"A": "1\nB=2"}}, "line break"),
    ],
)
def test_values_that_cannot_work_are_refused(render: Render, values: dict[str, Any], says: str) -> None:
    with pytest.raises((ValueError, jsonschema.ValidationError), match=says):
        render(**{**VALUES, **values})


def test_the_container_runs_as_the_chart_says(render: Render, api: Api, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a process what a container has")
    # The chart's pattern wants a deployment's URL; the API of the tests has a port as well.
    rendered = render(**VALUES, authority={"configMap": "company"})
    container = container_of(rendered)
    environment = environment_of(container) | {
        "ISTHMUS_AGENT_NAME": "oslo-0",
        "ISTHMUS_AGENT_URL": api.url.rstrip("/"),
        "ISTHMUS_AGENT_HEALTH_LISTEN": "127.0.0.1:0",
        "PATH": os.environ["PATH"],
    }
    volumes = {
        "token": {"token": api.token(name="helm")["secret"]},
        "authority": {"ca.crt": api.authority.read_text()},
        "task-environment": rendered["ConfigMap"]["data"],
    }
    script = ["set -eu", f"mount -t tmpfs none {tmp_path}", f"mkdir {tmp_path}/etc {tmp_path}/lib {tmp_path}/work"]
    # The mount points are made in a layer of the namespace's own: the machine stays as it is.
    script += [_layer("/etc", tmp_path / "etc"), _layer("/var/lib", tmp_path / "lib")]
    for mount in container["volumeMounts"]:
        where = mount["mountPath"]
        if mount["name"] == "tmp":
            continue  # the tests' own programs may be there
        script += [f"mkdir -p {where}", f"mount -t tmpfs -o mode=2777,gid={CONTROL} none {where}"]
        for name, text in volumes.get(mount["name"], {}).items():
            script += [f"cat > {where}/{name} <<'END'\n{text}\nEND", f"chgrp {CONTROL} {where}/{name}"]
            script += [f"chmod {'0440' if mount['name'] == 'token' else '0644'} {where}/{name}"]
    kept = ",".join(f"+{one.lower()}" for one in container["securityContext"]["capabilities"]["add"])
    isthmus = [str(Path(sys.executable).parent / container["command"][0]), *container["command"][1:]]
    script += [
        f"exec setpriv --no-new-privs --groups {CONTROL} --bounding-set=-all,{kept} --inh-caps=-all "
        + " ".join(isthmus)
    ]
    log = tmp_path.parent / "helm-agent.log"
    with log.open("w") as output:
        agent = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", "\n".join(script)],
            *(0, None, None, output, output),
            env=environment,
            start_new_session=True,
        )
    try:
        until(lambda: _is_ready(api, agent, log), seconds=60)
        inside = Path(f"/proc/{agent.pid}/root/etc/isthmus/token/token")
        held = inside.stat()
        assert (held.st_gid, stat.S_IMODE(held.st_mode)) == (CONTROL, 0o440)
        control = psutil.Process(agent.pid)
        assert set(control.uids()) == {CONTROL}
        tasks = [one for one in control.children(recursive=True) if set(one.uids()) == {TASKS}]
        assert tasks, log.read_text()
        for one in tasks:
            groups = Path(f"/proc/{one.pid}/status").read_text().split("Groups:")[1].splitlines()[0].split()
            assert str(CONTROL) not in groups, "a task could read the token"
        [view] = api.admin().get("/admin/v1/agents", params={"name": "oslo-0"}).json()["agents"]
        assert view["warnings"] == []
        assert view["queues"] == ["default"]
    finally:
        agent.terminate()
        agent.wait(60)


def _layer(path: str, upper: Path) -> str:
    work = upper.parent / "work" / upper.name
    return textwrap.dedent(f"""\
        mkdir -p {work}
        mount -t overlay overlay -o lowerdir={path},upperdir={upper},workdir={work} {path}""")


def _is_ready(api: Api, agent: "subprocess.Popen[bytes]", log: Path) -> bool:
    assert agent.poll() is None, log.read_text()
    found = api.admin().get("/admin/v1/agents", params={"name": "oslo-0"}).json()["agents"]
    children = psutil.Process(agent.pid).children(recursive=True)
    return bool(found) and found[0]["health"] == "healthy" and any(set(one.uids()) == {TASKS} for one in children)
