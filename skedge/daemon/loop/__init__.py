"""The controller's loop: the stages of its life, what is dirty, how it is woken, what runs beside it."""
