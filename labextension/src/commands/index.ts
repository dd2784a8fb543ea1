import type { ICommandContext } from './context';
import { CommandIDs } from './ids';
import { addMachineCommands } from './machine';
import { addRuntimeCommands } from './runtimes';
import { addTravelCommands } from './travel';

export type { ICommandContext, ISandboxSettings } from './context';
export { CommandIDs } from './ids';

/**
 * Add the commands that need no view of their own, and keep those who show them current.
 */
export function addCommands(context: ICommandContext): void {
  addMachineCommands(context);
  addTravelCommands(context);
  addRuntimeCommands(context);

  const { commands } = context.app;
  const notify = () => {
    for (const id of Object.values(CommandIDs)) {
      if (commands.hasCommand(id)) {
        commands.notifyCommandChanged(id);
      }
    }
  };
  context.model.stateChanged.connect(notify);
  context.store.changed.connect((_, change) => {
    if (change !== 'usages' && change !== 'pools') {
      notify();
    }
  });
}
