"""Sequential, the front end for examples, with Keras's conventions for arrays and training."""
