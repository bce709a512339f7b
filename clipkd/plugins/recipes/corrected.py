"""What the released code means to do: each known defect mended."""

from clipkd.plugins.recipes import Recipe

SPEC = Recipe(
    name="corrected",
    student_output="logits",
    distillation="hinton",
    temperature=4.0,
    distillation_weight=0.5,
    logit_scale="learnable",
    projection="student",
    prototype_form="unit-mean",
    prototype_resize="tensor",
    teacher_normalisation="teacher",
    teacher_view="native",
    same_class_targets=False,
    schedule="cosine",
    warmup_fraction=0.05,
    weight_decay_on="matrices",
    drop_last=True,
    selection="validation",
    protocol=2,
)
