"""Statistics over explanations and scores: pure maths over numbers and tables, no store and no stage."""
