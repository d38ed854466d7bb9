"""Which GPUs a process sees: one text for all layers, numbered within what a scheduler left."""

from __future__ import annotations

import pytest

from r1kit.machine.devices import LayoutError, accelerator, mask


def test_rocm_gets_two_equal_masks_and_nvidia_one():
    both = {"HIP_VISIBLE_DEVICES": "2,3", "CUDA_VISIBLE_DEVICES": "2,3"}
    assert mask([2, 3], rocm=True, environment={}) == both
    assert mask([2, 3], rocm=False, environment={}) == {"CUDA_VISIBLE_DEVICES": "2,3"}


def test_numbers_count_within_the_mask_of_a_scheduler():
    outer = {"CUDA_VISIBLE_DEVICES": "4,5,6,7"}
    assert mask([0, 3], rocm=False, environment=outer) == {"CUDA_VISIBLE_DEVICES": "4,7"}
    with pytest.raises(LayoutError, match=r"names device 4, but .* shows only 4"):
        mask([4], rocm=False, environment=outer)


def test_rocr_masks_and_masks_that_differ_are_refused():
    with pytest.raises(LayoutError, match="Unset it"):
        mask([0], rocm=True, environment={"ROCR_VISIBLE_DEVICES": "0,1"})
    differing = {"HIP_VISIBLE_DEVICES": "0", "CUDA_VISIBLE_DEVICES": "1"}
    with pytest.raises(LayoutError, match="differ"):
        mask([0], rocm=True, environment=differing)


def test_amd_is_known_by_its_device_file(tmp_path):
    assert accelerator(tmp_path)[0] is None
    (tmp_path / "kfd").touch()
    assert accelerator(tmp_path)[0] == "AMD"
