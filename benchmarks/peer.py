"""The peer: the released protocol's training loop, written from the paper's description (docs/method.md).

What one gets without this project: PIL images through torchvision transforms and a `DataLoader` with
two workers, a student built on `nn.MultiheadAttention`, the teacher run on every batch where the
train type asks for it, the loss read in every step. Beside it, the same loop with a student of the same size
from timm or transformers: what one would take today.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from benchmarks.rounds import counts_running
from clipkd.plugins.datasets import CLIP_MEAN, CLIP_STD
from clipkd.plugins.students import StudentSpec

WORKERS = 2
WEIGHT = 0.5
TEACHER_SIZE = 224


class Images(Dataset):
    """Images and labels, one at a time, as PIL images through the training transform."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        from clipkd.core.vision import torchvision

        transforms = torchvision.transforms
        self.images, self.labels = images, labels
        self.transform = transforms.Compose(
            [
                transforms.Resize(32),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(CLIP_MEAN, CLIP_STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[row])), int(self.labels[row])


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, dropout=dropout)
        self.ln_1 = nn.LayerNorm(width)
        layers = [("c_fc", nn.Linear(width, 4 * width)), ("gelu", QuickGELU()), ("c_proj", nn.Linear(4 * width, width))]
        self.mlp = nn.Sequential(OrderedDict(layers))
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class PlainStudent(nn.Module):
    """The student as the released code has it, sequence first, with a softmax at its end."""

    def __init__(self, spec: StudentSpec, classes: int, teacher_width: int) -> None:
        super().__init__()
        width = spec.width
        self.conv1 = nn.Conv2d(3, width, spec.patch_size, spec.patch_size, bias=False)
        self.class_embedding = nn.Parameter(width**-0.5 * torch.randn(width))
        tokens = (spec.image_size // spec.patch_size) ** 2 + 1
        self.positional_embedding = nn.Parameter(width**-0.5 * torch.randn(tokens, width))
        self.ln_pre = nn.LayerNorm(width)
        blocks = [Block(width, spec.heads, spec.attention_dropout) for _ in range(spec.layers)]
        self.transformer = nn.Sequential(OrderedDict(resblocks=nn.Sequential(*blocks)))
        self.ln_post = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, classes)
        self.cluster_projection = nn.Linear(teacher_width, width)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return class token [B, W] and probabilities [B, C]."""
        x = self.conv1(images).flatten(2).permute(0, 2, 1)
        token = self.class_embedding + torch.zeros(len(x), 1, x.shape[-1], device=x.device)
        x = self.ln_pre(torch.cat([token, x], dim=1) + self.positional_embedding)
        x = self.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
        embedding = self.ln_post(x[:, 0])
        return embedding, self.classifier(embedding).softmax(dim=-1)


class LibraryStudent(nn.Module):
    """A library's ViT of the student's size and dropout, with the heads that the released code adds."""

    def __init__(self, library: str, spec: StudentSpec, classes: int, teacher_width: int) -> None:
        super().__init__()
        self.library = library
        self.body = timm_body(spec) if library == "timm" else transformers_body(spec)
        self.classifier = nn.Linear(spec.width, classes)
        self.cluster_projection = nn.Linear(teacher_width, spec.width)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return class token [B, W] and probabilities [B, C]."""
        embedding = self.body(images) if self.library == "timm" else self.body(images).last_hidden_state[:, 0]
        return embedding, self.classifier(embedding).softmax(dim=-1)


def timm_body(spec: StudentSpec) -> nn.Module:
    """Return timm's ViT; attention as timm chooses it."""
    from clipkd.core.vision import torchvision  # noqa: F401  (timm imports it: it must work first)

    from timm.models.vision_transformer import VisionTransformer  # isort: skip

    return VisionTransformer(
        img_size=spec.image_size, patch_size=spec.patch_size, num_classes=0, global_pool="token", embed_dim=spec.width,
        depth=spec.layers, num_heads=spec.heads, attn_drop_rate=spec.attention_dropout,
    )  # fmt: skip


def transformers_body(spec: StudentSpec) -> nn.Module:
    """Return transformers' ViT; attention as transformers chooses it."""
    from clipkd.core.vision import torchvision  # noqa: F401  (transformers imports it: it must work first)

    import transformers  # isort: skip

    config = transformers.ViTConfig(
        image_size=spec.image_size, patch_size=spec.patch_size, hidden_size=spec.width,
        intermediate_size=4 * spec.width, num_hidden_layers=spec.layers, num_attention_heads=spec.heads,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=spec.attention_dropout,
    )  # fmt: skip
    return transformers.ViTModel(config, add_pooling_layer=False)


def loss_of(student: nn.Module, images: Tensor, labels: Tensor, train_type: str, signal: Tensor) -> Tensor:
    """Return a train type's loss on one batch (docs/method.md, recipe `reference`).

    Args:
        student: the network.
        images: normalised [B, 3, 32, 32].
        labels: class numbers [B].
        train_type: `embed-KD`, `teacher-KD` or `vanilla`.
        signal: class means [C, D], the batch's embeddings [B, D], or its class scores [B, C].
    """
    embedding, probabilities = student(images)
    loss = F.cross_entropy(probabilities, labels)
    if train_type == "vanilla":
        return loss + WEIGHT * F.cross_entropy(probabilities, signal.softmax(dim=-1))
    targets = F.normalize(student.cluster_projection(signal), dim=-1)
    cosines = F.normalize(embedding, dim=-1) @ targets.T
    columns = labels if train_type == "embed-KD" else torch.arange(len(labels), device=labels.device)
    return loss + WEIGHT * F.cross_entropy(cosines, columns)


class Peer:
    """One training of the peer."""

    def __init__(
        self,
        images: Images,
        student: nn.Module,
        train_type: str,
        teacher: nn.Module | None,
        means: Tensor,
        head: nn.Linear,
        batch_size: int,
        device: torch.device,
    ) -> None:
        self.student, self.train_type, self.teacher, self.device = student.to(device), train_type, teacher, device
        self.means, self.head = means.to(device), head.to(device)
        # `fork` is what a script on Linux gets; a benchmark that runs in a spawned process would get `spawn`.
        # Its workers are started once, not for each epoch, where their CPU seconds can be counted while they run.
        self.loader = DataLoader(
            images, batch_size, shuffle=True, num_workers=WORKERS, multiprocessing_context="fork",
            persistent_workers=counts_running(),
        )  # fmt: skip
        self.optimiser = torch.optim.AdamW(student.parameters(), lr=1e-4, weight_decay=0.1)

    @torch.no_grad()
    def signal(self, images: Tensor) -> Tensor:
        """Return what the train type asks of the teacher; live, but for the class means."""
        if self.train_type == "embed-KD":
            return self.means
        assert self.teacher is not None
        enlarged = F.interpolate(images, size=TEACHER_SIZE, mode="bilinear", antialias=True, align_corners=False)
        embeddings = self.teacher(pixel_values=enlarged).last_hidden_state[:, 0]
        return embeddings if self.train_type == "teacher-KD" else self.head(embeddings)

    def epoch(self) -> float:
        """Train one epoch; return the mean loss."""
        self.student.train()
        total = 0.0
        for images, labels in self.loader:
            images, labels = images.to(self.device), labels.to(self.device)
            loss = loss_of(self.student, images, labels, self.train_type, self.signal(images))
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            total += loss.item()
        return total / len(self.loader)
