"""What stands in ci/: valid by the published schemas, and made of commands and options that there are."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest
from projects import ROOT
from ruamel.yaml import YAML
from test_documentation import check

GITHUB = ROOT / "ci" / "github" / "action.yml"
GITLAB = ROOT / "ci" / "gitlab" / "edgeship.gitlab-ci.yml"
HOOKS = ROOT / ".pre-commit-hooks.yaml"
COMMAND = re.compile(r"edgeship ((?:check|ship|compare)\b[^|;\n]*)")


@pytest.mark.parametrize(("schema", "file"), [("github-actions", GITHUB), ("gitlab-ci", GITLAB)])
def test_a_file_is_valid_by_the_published_schema(schema, file):
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", str(file)]
    if schema == "gitlab-ci":
        command += ["--data-transform", "gitlab-ci"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", [GITHUB, GITLAB, HOOKS])
def test_its_commands_are_ones_that_the_command_line_takes(file):
    found = [part for part in COMMAND.findall(file.read_text()) if not part.startswith("check:")]
    commands = [shlex.split(re.sub(r"\|\||\\\||'.*$", "", part).replace('"', "")) for part in found]
    commands = [[word for word in words if word not in ("||", "code=$?", "true")] for words in commands if words]
    real = [words for words in commands if any(word.startswith("$") for word in words)]
    assert real
    assert [problem for words in real if (problem := check(words))] == []


def test_the_scripts_are_bash():
    steps = YAML(typ="safe").load(GITHUB.read_text())["runs"]["steps"]
    scripts = [step["run"] for step in steps if "run" in step]
    scripts += list(YAML(typ="safe").load(GITLAB.read_text())[".edgeship"]["script"])
    for script in scripts:
        done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), script
        assert "${{" not in script, "values of a workflow come through the environment, never into a script"


def test_the_hook_checks_each_config_and_nothing_else():
    (hook,) = YAML(typ="safe").load(HOOKS.read_text())
    assert {"id", "name", "entry", "language", "files"} <= set(hook)
    assert re.search(hook["files"], "models/person/edgeship.toml")
    assert not re.search(hook["files"], "models/person/not-edgeship.toml.txt")
