"""A small convolutional network for images. B rows, H x W pixels, F channels, K outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jobs.base.errors import ConfigError
from jobs.batch.batch import Batch
from jobs.models.layers import EMBEDDING_STD, Embeddings, InputLayer, mlp, one_or_classes
from jobs.models.lists import NumberLists, PooledEmbeddings
from jobs.models.spec import ModelSpec

_CHANNELS = (32, 64)
_GROUPS = 8
_BRIGHTEST = 255.0


class CNN(nn.Module):
    """image -> two blocks of convolution, GroupNorm, ReLU, pooling -+
                                                                   +-> MLP -> logits
    numbers -> standardise, ids -> embeddings ----------------------+

    GroupNorm, since it sees one row: statistics of a batch would be those of a rank's piece.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.image = _image_name(spec)
        height, width, *colours = spec.tensor_shapes[self.image]
        self.blocks = nn.Sequential()
        inputs = colours[0] if colours else 1
        for channels in _CHANNELS:
            self.blocks.extend(_block(inputs, channels))
            inputs, height, width = channels, -(-height // 2), -(-width // 2)
        self.inputs = InputLayer(spec)
        self.embeddings = Embeddings(
            spec.table_rows, spec.embedding_dims, EMBEDDING_STD, spec.table_places
        )
        self.number_lists = NumberLists(spec)
        self.pooled = PooledEmbeddings(spec.id_lists, EMBEDDING_STD, spec.list_places)
        parts = (self.inputs, self.number_lists, self.embeddings, self.pooled)
        num_inputs = inputs * height * width + sum(part.num_outputs for part in parts)
        self.mlp = mlp(num_inputs, spec.hidden, spec.dropout, spec.num_logits)

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B], or [B, classes]."""
        seen = self.blocks(self._pixels(batch.tensors[self.image])).flatten(1)
        numbers = [self.inputs(batch.dense), self.number_lists(batch)]
        embedded = [self.embeddings(batch.sparse), self.pooled(batch)]
        return one_or_classes(self.mlp(torch.cat([seen, *numbers, *embedded], dim=1)))

    def _pixels(self, image: Tensor) -> Tensor:
        """uint8 [B, H, W] or [B, H, W, 3] -> [B, 1 or 3, H, W] from -1 to 1."""
        channels_first = image.unsqueeze(1) if image.dim() == 3 else image.permute(0, 3, 1, 2)
        dtype = self.inputs.means.dtype
        return channels_first.to(dtype) * (2 / _BRIGHTEST) - 1


def _block(inputs: int, channels: int) -> list[nn.Module]:
    """[B, inputs, H, W] -> [B, channels, H/2, W/2], rounded up."""
    return [
        nn.Conv2d(inputs, channels, kernel_size=3, padding=1),
        nn.GroupNorm(_GROUPS, channels),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
    ]


def _image_name(spec: ModelSpec) -> str:
    images = [name for name, shape in spec.tensor_shapes.items() if len(shape) in (2, 3)]
    if len(images) != 1:
        raise ConfigError(
            f"train.model 'cnn' finds {len(images)} images in {spec.dataset!r}",
            "one field of kind Image",
            "take another model, or one of your own",
        )
    return images[0]
