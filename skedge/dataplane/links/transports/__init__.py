"""What is a transport's own."""
