"""A model and a data set of one's own. Train it in the folder above: splitee train examples/own.toml

An experiment names both functions as module:function; a client on another machine names them on its command line.
"""

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from torch import nn

Tensors = tuple[torch.Tensor, torch.Tensor]


def layers(sample_shape: tuple[int, ...], classes: int) -> list[nn.Module]:
    """Return the network's layers 1..L in order; a client that cuts at l runs the first l. New modules at each call."""
    width = 32
    return [
        nn.Sequential(nn.Linear(sample_shape[0], width), nn.BatchNorm1d(width), nn.ReLU()),
        nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU()),
        nn.Sequential(nn.Linear(width, width), nn.Dropout(0.1), nn.ReLU()),
        nn.Linear(width, classes),
    ]


def data() -> tuple[Tensors, Tensors]:
    """Return training and test split, each samples (count, 30) and labels (count,): tumours, malignant or benign."""
    samples, labels = load_breast_cancer(return_X_y=True)
    train, test, train_labels, test_labels = train_test_split(samples, labels, test_size=0.25, random_state=0, stratify=labels)
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    scaled = [torch.from_numpy((part - mean) / deviation).float() for part in (train, test)]
    return (scaled[0], torch.from_numpy(train_labels)), (scaled[1], torch.from_numpy(test_labels))
