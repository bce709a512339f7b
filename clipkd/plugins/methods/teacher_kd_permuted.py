"""Control of CLIP-Teacher-KD: each image is taught the embedding of another training image of any class."""

from clipkd.plugins.methods.teacher_kd import TeacherKD

SPEC = TeacherKD(
    name="teacher-KD-permuted",
    title="embeddings permuted",
    signal="embeddings",
    control_of="teacher-KD",
    target_of="another image",
)
