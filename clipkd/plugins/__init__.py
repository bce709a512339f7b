"""One file, one name: datasets, teachers, students, methods, recipes, prototype forms.

Heavy imports stand inside functions: names and sizes are read without torch.
"""
