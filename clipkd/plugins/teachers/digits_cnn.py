"""A small convolutional network that the workflow trains on the digits."""

from clipkd.plugins.teachers._cnn import TrainedCNN

SPEC = TrainedCNN(
    name="digits-cnn",
    title="Digits ResNet-10-T",
    image_size=32,
    head="own@digits",
    output="pooled",
    dataset="digits",
    model="resnet10t",
    epochs=15,
    batch_size=64,
)
