"""CIFAR-100, from its official binary archive (https://www.cs.toronto.edu/~kriz/cifar.html)."""

from clipkd.plugins.datasets.cifar import Cifar

SPEC = Cifar(
    name="cifar100",
    title="CIFAR100",
    classes=100,
    archive="cifar-100-binary.tar.gz",
    md5="03b5dce01913d631647c71ecec9e9cb8",
    archive_bytes=168513733,
    train_members=("cifar-100-binary/train.bin",),
    test_member="cifar-100-binary/test.bin",
    names_member="cifar-100-binary/fine_label_names.txt",
    label_bytes=2,  # coarse, then fine
)
