"""Proofs as answers: the statement is ours, the proof the model's, and a checker judges that listens to nobody."""
