# The consoles of the machine reach the interface, and the prompt when it is left; a shell alone is on tty2.
[ ! -r ~/.bashrc ] || . ~/.bashrc
export LANG=C.UTF-8
case $(tty) in
    /dev/tty1 | /dev/ttyS* | /dev/ttyAMA* | /dev/ttyUSB* | /dev/hvc*)
        # A serial line tells no size.
        [ "$(stty size 2>/dev/null)" != "0 0" ] || stty rows 24 cols 80
        recovery tui
        /usr/lib/recovery/welcome
        ;;
    /dev/pts/*)
        # Remote help: whoever logs in over the network lands in the same interface.
        [ -z "$SSH_TTY" ] || recovery tui
        ;;
esac
