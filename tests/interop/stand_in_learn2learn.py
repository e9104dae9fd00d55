"""Objects that look like those of learn2learn, as far as the bridge looks, so that its tests run anywhere."""

from __future__ import annotations

import copy
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import default_collate


class DataDescription:
    def __init__(self, index):
        self.index, self.transforms = index, []


class MetaDataset:
    def __init__(self, dataset, indices_to_labels=None):
        self.dataset = dataset
        self.indices_to_labels = indices_to_labels or {i: dataset[i][1] for i in range(len(dataset))}

    def __getitem__(self, index):
        return self.dataset[index]

    def __len__(self):
        return len(self.dataset)


class Taskset:
    """Draws task i by calling `task_transforms` when it is first asked for."""

    def __init__(self, dataset, task_transforms=None, num_tasks=-1):
        self.dataset, self.task_transforms, self.num_tasks = dataset, task_transforms, num_tasks
        self.sampled_descriptions = {}

    def __len__(self):
        return self.num_tasks

    def __getitem__(self, task):
        if task not in self.sampled_descriptions:
            self.sampled_descriptions[task] = self.task_transforms(None)
        rows = []
        for description in self.sampled_descriptions[task]:
            item = description.index
            for transform in description.transforms:
                item = transform(item)
            rows.append(item)
        return default_collate(rows)


def partition_task(data, labels, shots):
    """Support and query: the first images of each label, labels in ascending order."""
    rows = [torch.nonzero(labels == label)[:, 0] for label in labels.unique()]
    support, query = (torch.cat([row[part] for row in rows]) for part in (slice(shots), slice(shots, None)))
    return (data[support], labels[support]), (data[query], labels[query])


class Learner(nn.Module):
    """First-order MAML that copies the network it adapts."""

    def __init__(self, module, lr=0.1):
        super().__init__()
        self.module, self.lr = module, lr
        self.clones = [0]  # shared by all clones

    def forward(self, images):
        return self.module(images)

    def clone(self):
        self.clones[0] += 1
        clone = copy.deepcopy(self)
        clone.clones = self.clones
        return clone

    def adapt(self, loss):
        parameters = list(self.module.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.data -= self.lr * gradient


@pytest.fixture
def stand_in(monkeypatch):
    """A stand-in for the package learn2learn."""
    module = ModuleType("learn2learn")
    module.data = SimpleNamespace(DataDescription=DataDescription, MetaDataset=MetaDataset, Taskset=Taskset)
    monkeypatch.setitem(sys.modules, "learn2learn", module)
    return module
