"""The embedded model "shapes": vocabulary, renderer, judge, training and evaluation of a tiny Flux pipeline."""
