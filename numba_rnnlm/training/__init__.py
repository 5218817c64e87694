"""Training: one loop for all that learns, fed by a task and watched by watchers.

::

    task      where batches come from, and how the model is measured
    loop      batches → gradients → updates, reports, and what ends a training
    updater   changes the weights;  schedules  the learning rate over time;  plan  what is chosen where it is left open
    watchers  lines, checkpoints and callbacks, called at the events of the loop;  log  a file of reports
    position  where a training stands;  history  its reports;  clock  its time
"""
