"""Critics that sit elsewhere: in the data centres that own the images, in processes and on machines of their own.

    agreement.py    what both ends must have in common, what crosses, and what may not be combined with it
    elsewhere.py    the generator's site: critics, centres and steps whose other half is elsewhere
    answers.py      the generator's site: what is in the answers of a centre
    listening.py    the generator's site: where centres connect
    arrival.py      the generator's site: a centre connects
    hub.py          the generator's site: who is connected, requests and answers, and what happens when somebody is away
    mailbox.py, hardening.py    a centre: what stands where G would be; what is done to gradients before they leave
    limits.py       a centre: how much it may be asked for
    seat.py         a centre: critics, images, and what it does for a request
    take_part.py    a centre: from a connection to its end, and the next one

The steps of training/loss.py run at both ends as they are. At the generator's site an image gradient comes from the centre, at a
centre fakes come from the generator's site.
"""
