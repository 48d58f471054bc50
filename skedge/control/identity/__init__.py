"""Who this site is and whom it believes: keys, certificates, TLS contexts."""
