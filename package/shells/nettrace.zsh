#compdef nettrace
# Completion of nettrace for zsh.

# Offers what there is of a kind.
_nettrace_words() {
  local -a words
  case $1 in
@WORDS@
  (device) words=(/sys/class/net/*(N:t)) ;;
  (namespace) words=(/run/netns/*(N:t)) ;;
  esac
  case $1 in
  (trace|reason|column) compset -P '*,' ;; # several, with commas
  esac
  _describe $1 words
}

_arguments -s -S : \
@OPTIONS@
  '*:expression:()'
