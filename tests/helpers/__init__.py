"""What several test modules use. Test modules import nothing from each other."""
