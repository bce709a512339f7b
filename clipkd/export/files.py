"""Files of an export, and the kinds in its manifest."""

EXPORT, EMBEDDINGS_EXPORT = "export", "embeddings-export"
CARD, CONFIG, WEIGHTS = "README.md", "config.json", "model.safetensors"
DISTILLATION = "distillation.safetensors"
"""The projection and logit scale of a student whose other weights are in timm's model.safetensors."""
EMBEDDINGS_FORMATS = {
    "parquet": "a table per split, for pandas, DuckDB, Polars, Spark",
    "npy": "NumPy arrays, for FAISS and scikit-learn",
    "hf": "the tables and their card as a dataset of the Hugging Face hub, for `clipkd push`",
}
