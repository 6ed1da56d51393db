"""The fine-tune: objectives, predictor, training function, Ray Train driver and Ray Tune pilots."""
