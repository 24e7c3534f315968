"""The demonstration behind `swag demo`: real images, eight kinds of figures, seven methods, one minute.

    data ──► training ──► methods ──► run
    Task     networks     ensembles   report, posteriors, words

It uses the library the way a user would, so it can be read as an example: training.py has the training
loop with its collector, methods.py reads every method out of what was collected.
"""
