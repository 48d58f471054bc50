"""What one value alone cannot tell, a file a subject."""
