"""Long operations as processes of their own, which outlive the screen that started them.

::

    screen                                  job: forked from it, in a session of its own
    start(kind, what, work) --------------> work(job): records events, takes orders
      Watcher: follows events.jsonl  <----- events.jsonl, a whole line each
               sends orders  -------------> control: cancel, stop, answer, status
      any number of screens, from anywhere; none of them is needed

What a job says and takes lies in a run folder of its own (``folder.py``), which only its owner may read.
"""
