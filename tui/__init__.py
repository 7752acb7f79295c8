"""The interface: what a person at a dead machine sees and types, over the engine in ``recovery``.

::

    app.py        the program: survey of the disks, questions to the engine, journeys
    journey.py    a short row of screens with Back; what each gives is kept in the journey's own value
    machine.py    what the interface asks of a machine; this one (or a recorded one: recorded.py)
    job_view.py   a running job, as it is to be shown; job_words.py: in sentences
    screens/      one screen, one decision
    widgets/      disks that can be recognised, a map of work, passwords
    modals.py     questions over a screen
    glyphs.py     what the terminal can show

Nothing here reads a disk in the interface's own thread: questions run beside it, operations are jobs of their own.
"""
