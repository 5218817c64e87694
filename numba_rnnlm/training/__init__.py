"""Training: one loop for all that learns, fed by a task; watchers are called at its events.

::

    task      where batches come from, and how the model is measured
    loop      batches → gradients → updates, reports, and what ends a training
    updater   changes the weights;  schedules  the learning rate over time;  plan  what is chosen where it is left open
    reports   the lines, history and log of a language model;  log  a file of reports;  checkpoints  the whole state, now and then
    position  where a training stands;  history  its reports;  clock  its time
"""
