"""CIFAR-10, from its official binary archive (https://www.cs.toronto.edu/~kriz/cifar.html)."""

from clipkd.plugins.datasets.cifar import Cifar

SPEC = Cifar(
    name="cifar10",
    title="CIFAR10",
    classes=10,
    archive="cifar-10-binary.tar.gz",
    md5="c32a1d4ab5d03f1284b67883e8d87530",
    archive_bytes=170052171,
    train_members=tuple(f"cifar-10-batches-bin/data_batch_{batch}.bin" for batch in range(1, 6)),
    test_member="cifar-10-batches-bin/test_batch.bin",
    names_member="cifar-10-batches-bin/batches.meta.txt",
    label_bytes=1,
)
