"""The only room that runs programs: sample the guide, score the model, freeze the guide."""
