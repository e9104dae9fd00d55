from __future__ import annotations

import pytest
import torch

from fewshot_bench._io.tensors import DamagedFileError, ForeignFileError, read_metadata, read_tensors, write_tensors


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "tensors.safetensors"
    tensors = {"b": torch.arange(6.0).view(2, 3), "a": torch.ones(3, dtype=torch.bfloat16), "n": torch.tensor(7)}
    write_tensors(path, tensors, {"what": "three tensors"})
    return path


def test_tensors_and_words_come_back(path):
    tensors, metadata = read_tensors(path)
    assert tensors["b"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (tensors["a"].dtype, int(tensors["n"])) == (torch.bfloat16, 7)
    assert metadata == read_metadata(path) == {"what": "three tensors"}


@pytest.mark.slow
def test_no_flipped_byte_gives_other_tensors(path):
    before, _ = read_tensors(path)
    content = path.read_bytes()
    refused = 0
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        try:
            after, _ = read_tensors(path)
        except DamagedFileError:
            refused += 1
            continue
        assert sorted(after) == sorted(before)
        assert all(torch.equal(after[name], before[name]) for name in before)
    assert refused > len(content) // 2  # the rest are the words of the metadata, and spaces


@pytest.mark.parametrize("length", [0, 7, 60, -1])
def test_a_truncated_file_is_damaged(path, length):
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DamagedFileError, match="cannot be read"):
        read_tensors(path)


def test_what_is_written_to_a_tensor_never_reaches_its_file(path):
    content = path.read_bytes()
    read_tensors(path)[0]["b"].fill_(9.0)
    assert path.read_bytes() == content
    assert read_tensors(path)[0]["b"][0, 0] == 0


def test_a_replaced_file_leaves_its_readers_what_they_have(path):
    mapped = read_tensors(path)[0]["b"]
    write_tensors(path, {"b": torch.zeros(2, 3)}, {})
    assert mapped.sum() == 15


def test_the_file_of_another_program_has_no_digest(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(ForeignFileError):
        read_metadata(tmp_path / "x.safetensors")


def test_others_may_read_what_the_user_lets_them_read(path, tmp_path):
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_nothing_is_left_where_writing_fails(tmp_path):
    shared = torch.zeros(4)
    with pytest.raises(RuntimeError, match="share memory"):
        write_tensors(tmp_path / "x.safetensors", {"a": shared, "b": shared}, {})
    assert list(tmp_path.iterdir()) == []
