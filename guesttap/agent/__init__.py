"""What runs inside a protected guest, on Python 3.8 or later, from one zipapp."""
