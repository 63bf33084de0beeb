"""What does something with several stores and hooks: for operators, dispatcher and API alike."""
