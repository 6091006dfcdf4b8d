// The colours of a first visit are the system's; the theme complains where nothing says so.
document.documentElement.dataset.mode ||= "auto";
