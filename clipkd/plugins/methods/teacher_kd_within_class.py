"""Control of CLIP-Teacher-KD: each image is taught the embedding of another training image of its class."""

from clipkd.plugins.methods.teacher_kd import TeacherKD

SPEC = TeacherKD(
    name="teacher-KD-within-class",
    title="embeddings permuted within classes",
    signal="embeddings",
    control_of="teacher-KD",
    decides=True,
    target_of="another image of the class",
)
