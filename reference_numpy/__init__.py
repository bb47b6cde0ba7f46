"""What is written from scratch in NumPy: nothing in this folder imports torch."""
