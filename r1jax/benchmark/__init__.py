"""What is timed, what runs between devices, and what a mesh that is not here would need."""
