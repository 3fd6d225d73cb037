"""What a study is: its file, read, checked and resolved."""
