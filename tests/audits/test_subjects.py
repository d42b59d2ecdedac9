"""Subjects that are files: which are none, and what is said of them."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

PLAN = ("--data", "digits", "--auditors", "utility", "--dry-run")


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "a.ckpt"])
def test_an_empty_file_is_called_empty(run, tmp_path, name):
    (tmp_path / name).touch()
    code, _, said = run("audit", tmp_path / name, *PLAN)
    assert code == 2
    assert said == [f"ddaudit: {tmp_path / name}: is empty. Make or download it again."]


def test_a_table_is_not_taken_for_weights(run, tmp_path):
    (tmp_path / "a.csv").write_text("x,label\n1,0\n")
    code, _, said = run("audit", tmp_path / "a.csv", *PLAN)
    assert code == 2
    assert "is in no format that is known" in said[0]


def test_tensors_without_a_card_are_told_how_to_become_a_set(run, tmp_path):
    images = torch.from_numpy(np.random.RandomState(0).rand(10, 1, 8, 8).astype(np.float32))
    path = tmp_path / "a.safetensors"
    save_file({"images": images, "labels": torch.arange(10)}, path)
    code, _, said = run("audit", path, *PLAN)
    assert code == 2
    assert f"'ddaudit import {path} --format tensors --out FILE'" in said[0]
