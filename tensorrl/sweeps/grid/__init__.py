"""What a sweep is: its file, checked, and the cells it stands for."""
