"""The method's equations (docs/method.md): arrays in, arrays or frozen results out."""
