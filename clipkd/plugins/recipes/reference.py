"""The released code's mathematics, exactly, defects included."""

from clipkd.plugins.recipes import Recipe

SPEC = Recipe(
    name="reference",
    student_output="probabilities",
    distillation="soft-cross-entropy",
    temperature=1.0,
    distillation_weight=0.5,
    logit_scale="none",
    projection="teacher",
    prototype_form="mean",
    prototype_resize="image",
    teacher_normalisation="student",
    teacher_view="student-input",
    same_class_targets=False,
    schedule="constant",
    warmup_fraction=0.0,
    weight_decay_on="all",
    drop_last=False,
    selection="test",
    protocol=1,
    float32_by_default=True,
)
